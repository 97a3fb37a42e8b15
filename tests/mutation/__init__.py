"""Mutation testing of the core: all mutants in one build, each tried by the tests that reach it."""
