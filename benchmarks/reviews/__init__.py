"""Text classification: trained, quantized, and beside scikit-learn."""
