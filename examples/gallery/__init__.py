"""The pictures of the documentation, from a real run on the phrases of ICD-10-CM."""
