"""What users are told: errors and how any error becomes one line, counts and lists in words, progress, and names of
folders and URIs without their secrets. What a sweep or a study found is said by its own table.
"""
