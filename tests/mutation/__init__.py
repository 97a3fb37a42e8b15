"""Mutation testing: mistakes put into formats and cache, each tried by the tests that reach it."""
