"""The runs of a space: started by one request, owned together. Based on https://docs.sequentum.com/concepts/spaces."""
