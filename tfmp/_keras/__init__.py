"""All that tfmp reaches of Keras' private parts, and what it patches."""
