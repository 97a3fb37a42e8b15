"""Binding of libtcmu and configfs."""
