"""The parts that papers share: attentions, encoders of articles and of users."""
