# Helpers of the build: thunder_library(name SOURCES … LINK …) makes one static library with the tree's root as
# include path; thunder_test(name [CRITERION] SOURCES … LINK … [LABELS …]) one test program under CTest, with a timeout.
find_package(PkgConfig REQUIRED)

function(thunder_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_link_libraries(${name} PUBLIC ${A_LINK} PRIVATE ${A_PRIVATE_LINK})
endfunction()

function(thunder_program name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_link_libraries(${name} PRIVATE ${A_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endfunction()

# CRITERION: a Criterion program (each test in a child process); none under ThreadSanitizer, where Criterion 2.4 aborts at
# start. Without it: a plain program with a main, which is where threads belong. Target c_tests builds all that are there.
# Exit code 77 is a skip. A sanitizer's report fails the test whatever the exit code: Criterion does not look at what
# LeakSanitizer says when a child ends.
add_custom_target(c_tests)
set(THUNDER_REPORTS "ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: ")

function(thunder_test_settings name)
  cmake_parse_arguments(A "" "TIMEOUT" "LABELS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 60)
  endif()
  if(NOT A_LABELS)
    set(A_LABELS quick)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}" SKIP_RETURN_CODE 77 FAIL_REGULAR_EXPRESSION "${THUNDER_REPORTS}"
    ENVIRONMENT "THUNDER_SOURCE_DIR=${PROJECT_SOURCE_DIR};THUNDER_BUILD_DIR=${PROJECT_BINARY_DIR}")
endfunction()

function(thunder_test_program name)
  cmake_parse_arguments(A "CRITERION" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_link_libraries(${name} PRIVATE ${A_LINK})
  if(A_CRITERION)
    target_link_libraries(${name} PRIVATE PkgConfig::CRITERION)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_dependencies(c_tests ${name})
endfunction()

function(thunder_test name)
  cmake_parse_arguments(A "CRITERION" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT THUNDER_TESTS OR (A_CRITERION AND ("thread" IN_LIST THUNDER_SANITIZE OR CMAKE_CROSSCOMPILING)))
    return()
  endif()
  set(kind)
  if(A_CRITERION)
    set(kind CRITERION)
  endif()
  thunder_test_program(${name} ${kind} SOURCES ${A_SOURCES} LINK ${A_LINK})
  add_test(NAME ${name} COMMAND ${name})
  thunder_test_settings(${name} TIMEOUT ${A_TIMEOUT} LABELS ${A_LABELS})
endfunction()
