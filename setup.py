"Package metadata from settings.ini, which nbdev reads too"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser(delimiters=["="]); cfg.read("settings.ini"); cfg = cfg["DEFAULT"]
shipped = sorted(str(p.relative_to("assets")) for p in Path("assets").rglob("*") if p.is_file()) if Path("assets").is_dir() else []
setup(name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0", author=cfg["author"], url=cfg["git_url"],
      long_description=Path("README.md").read_text(encoding="utf8"), long_description_content_type="text/markdown", keywords=cfg["keywords"].split(),
      packages=["reasonflow", "reasonflow.assets"], package_dir={"reasonflow.assets": "assets"}, package_data={"reasonflow.assets": shipped},
      python_requires=f">={cfg['min_python']}", install_requires=cfg["requirements"].split(),
      extras_require={"dev": cfg["dev_requirements"].split(), "gpu": cfg["gpu_requirements"].split()},
      entry_points={"console_scripts": cfg["console_scripts"].split()})
