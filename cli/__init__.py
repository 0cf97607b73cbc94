"""The command line `reid`: parse, call the library, print."""
