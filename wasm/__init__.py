"""The engine in the browser: the JavaScript runtime (js/, npm package `sardonyx`) and what Pyodide needs to call the same engine (glue.js, binding.py)."""
