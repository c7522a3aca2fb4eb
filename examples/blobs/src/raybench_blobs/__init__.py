"""What raybench can be given from outside; imported when it is used."""
