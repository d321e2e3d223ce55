"""What a model is worth: token-level agreement with its teacher, multiple-choice sets, intervals over seeds."""
