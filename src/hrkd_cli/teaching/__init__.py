"""Teaching: an encoder fine-tuned on all domains."""
