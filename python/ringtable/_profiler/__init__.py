"""`ringtable profile`: a server and clients that sample themselves, and what their samples mean.

What a module may use is above it. Nothing of it is imported before somebody profiles.

| module   | what it holds                                                                             |
|----------|-------------------------------------------------------------------------------------------|
| `stacks` | names for frames, what a stack was busy with, and the shares of that                      |
| `flame`  | a profile as an SVG picture                                                               |
| `target` | the program of a process that profiles itself                                             |

The sampling itself is `Profiler`, in `crates/ringtable-python/src/bench/profile.rs`.
"""
