"""What users are told: errors and how any error becomes one line, what was found in sentences, counts and lists in
words, progress, and names of folders and URIs without their secrets. Tables are made where their numbers are.
"""
