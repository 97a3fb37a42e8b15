"""Any OCI image in, an overlaybd image out: planned, built layer by layer, and put where it is wanted."""
