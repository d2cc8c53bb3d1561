# DTAG_SANITIZE=address, =undefined or =address,undefined. Every finding ends the process, so a test cannot pass over it.
if(DTAG_SANITIZE)
  string(REPLACE "," ";" sanitizers "${DTAG_SANITIZE}")
  foreach(name IN LISTS sanitizers)
    if(NOT name MATCHES "^(address|undefined)$")
      message(FATAL_ERROR "DTAG_SANITIZE: expected address, undefined or both with a comma, got '${DTAG_SANITIZE}'.")
    endif()
  endforeach()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    add_link_options(-shared-libsan)  # the runtime must be the one that is loaded before Python
  endif()
  # Of debugging information the lines alone: what a report shows, and a third less to compile than all of it.
  add_compile_options(-fsanitize=${DTAG_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${DTAG_SANITIZE})
  set(CMAKE_CXX_FLAGS_RELEASE "-O1")  # asserts stay on
endif()
