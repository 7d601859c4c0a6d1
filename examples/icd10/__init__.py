"""A medical coder on the whole ICD-10-CM tree: phrase in, diagnosis code out."""
