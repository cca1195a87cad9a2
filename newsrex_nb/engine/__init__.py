"""What training, evaluation and recommending share: tables on the device, plans, scores from caches."""
