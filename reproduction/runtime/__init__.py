"""What a training script needs: run folders, records, flags, the resumable loop, torch and TensorFlow."""
