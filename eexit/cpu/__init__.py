"""What makes the engine fast on CPUs and changes no result: each part can be left out."""
