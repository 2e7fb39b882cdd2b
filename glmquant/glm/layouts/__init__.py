"""Published layouts, one small file for each ``model_type``: from config and tensor names to the canonical model."""
