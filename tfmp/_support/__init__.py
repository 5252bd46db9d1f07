"""What any program could use: checks, tables, files.  No TensorFlow."""
