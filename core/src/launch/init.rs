//! A PID namespace: who waits outside, who is process 1, and how signals and the exit status travel.
