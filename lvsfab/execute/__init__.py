"""The executor: any command on any hosts. What is run (task, script), on how many hosts at once
and when to stop (limits), and the loop over the hosts (fleet). Nothing here prints.
"""
