"""The method: LH classifier, Class2Str, Str2Class, their loss, strings and their tree."""
