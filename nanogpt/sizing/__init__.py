"""What a training will take, known before its first step."""
