"""The AlexNet trunks and their branches."""
