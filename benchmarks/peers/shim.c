/* Preloaded into Orthanc, which has no setting for either:
   - bind: it can only listen on every address; a port of a benchmark is open to this machine alone;
   - pthread_attr_setstacksize: its HTTP server (civetweb, as Debian builds it) asks for stacks of 100 KiB, on which
     GDCM's JPEG 2000 ends the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

static const size_t STACK_BYTES = 8u << 20;

int bind(int fd, const struct sockaddr *address, socklen_t length) {
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  if (address->sa_family == AF_INET && length >= sizeof v4) {
    memcpy(&v4, address, sizeof v4);
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(fd, (struct sockaddr *)&v4, sizeof v4);
  }
  if (address->sa_family == AF_INET6 && length >= sizeof v6) {
    memcpy(&v6, address, sizeof v6);
    v6.sin6_addr = in6addr_loopback;
    return next(fd, (struct sockaddr *)&v6, sizeof v6);
  }
  return next(fd, address, length);
}

int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t bytes) {
  int (*next)(pthread_attr_t *, size_t) = dlsym(RTLD_NEXT, "pthread_attr_setstacksize");
  return next(attributes, bytes < STACK_BYTES ? STACK_BYTES : bytes);
}
