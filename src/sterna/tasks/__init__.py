"""Tasks: the loss that a network is trained with and the metric that it is judged by."""
