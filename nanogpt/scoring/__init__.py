"""What a text costs a model, by parts that no tokenizer decides, and how far two models differ."""
