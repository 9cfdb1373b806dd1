"""The method: LH classifier, Class2Str, Str2Class, their loss, and what strings say."""
