"""The runs of a space: started by one request, owned together. Rests on https://docs.sequentum.com/concepts/spaces."""
