"""Benchmarks: soliton beside the peers found on the machine, in one run, as ratios, with the floor."""
