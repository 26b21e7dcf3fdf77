"""The public operations, one module each; `soliton` re-exports them. The command line is a thin layer over these."""
