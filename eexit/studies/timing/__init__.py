"""How long a sweep's configurations take beside full depth and transformers' own generate."""
