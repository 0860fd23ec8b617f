"""The native code, built once per session for the tests that ask for it."""
