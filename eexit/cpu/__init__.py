"""Speed on CPUs: parts that change no result, and can be left out."""
