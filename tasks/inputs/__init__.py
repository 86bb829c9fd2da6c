"""What does a job name: files, tables, weights, devices, places?"""
