"""What several tests share: cases, networks, graphs, builds of the native code, and the programs that run it."""
