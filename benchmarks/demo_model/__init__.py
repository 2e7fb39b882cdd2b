"""The parts of the training script of the demonstration model (`train_demo_model.py`)."""
