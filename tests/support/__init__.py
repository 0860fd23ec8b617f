"""What tests share: cases, networks, graphs, builds of the native code, calls of it."""
