# Where Python.h and pybind11 are and what an extension module's file name ends in. setup.py gives all three; a plain
# `cmake -S . -B build/dev` asks the python3 on PATH (which needs pybind11).
#   -> DTAG_PYTHON_INCLUDE, DTAG_PYTHON_SUFFIX, DTAG_PYBIND11_INCLUDE
if(NOT DTAG_PYTHON_INCLUDE OR NOT DTAG_PYTHON_SUFFIX OR NOT DTAG_PYBIND11_INCLUDE)
  execute_process(
    COMMAND python3 -c "import pybind11, sysconfig; print(sysconfig.get_path('include'), \
sysconfig.get_config_var('EXT_SUFFIX'), pybind11.get_include(), sep=';', end='')"
    OUTPUT_VARIABLE found RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "The python3 on PATH cannot import pybind11: run `pip install pybind11`, or build with `pip install .`.")
  endif()
  list(GET found 0 DTAG_PYTHON_INCLUDE)
  list(GET found 1 DTAG_PYTHON_SUFFIX)
  list(GET found 2 DTAG_PYBIND11_INCLUDE)
endif()
