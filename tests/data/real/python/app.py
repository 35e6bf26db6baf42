import getpass

from greet import greet

print(greet(getpass.getuser()))
