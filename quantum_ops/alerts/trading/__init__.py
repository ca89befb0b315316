"""From what was decided to what an operator must know: read, judged and put into words."""
