"""turboOCI layers in registries: what makes a block device of an OCI layer that stays as it is."""
