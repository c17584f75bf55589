"""Model families: one file each, and the graph parts that they share."""
