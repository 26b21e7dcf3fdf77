"""Every option and command there is, as data: one module per family. Nothing here does anything."""
