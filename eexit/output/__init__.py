"""What leaves the program: numbers and counts as text, folders and URIs without their secrets, progress, the style of
printed tables, and files that are there whole or not at all. What is said stands where it is used.
"""
