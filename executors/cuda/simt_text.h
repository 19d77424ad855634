/* simt.h as a string, for the source of a module that runs without a GPU. The build writes its C file (cmake/text.cmake). */
#ifndef THUNDER_EXECUTORS_CUDA_SIMT_TEXT_H
#define THUNDER_EXECUTORS_CUDA_SIMT_TEXT_H

extern const char th_simt_text[];

#endif
