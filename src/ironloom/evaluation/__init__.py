"""How good a trained model is: perplexity on prepared data, tasks of lm-evaluation-harness."""
