"""One folder for each runtime: its library, building for it, running in it.

``interface`` has what the runtimes have in common.
"""
