# secmalloc.m4 - find secmalloc from a configure.ac
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC

#serial 1

# AM_PATH_SECMALLOC([MINIMUM-VERSION], [ACTION-IF-FOUND], [ACTION-IF-NOT-FOUND])
#
# Looks for secmalloc with pkg-config.  Found: SECMALLOC_CFLAGS and SECMALLOC_LIBS are
# substituted, HAVE_SECMALLOC is defined, ACTION-IF-FOUND runs.  Not found: both are empty
# and ACTION-IF-NOT-FOUND runs; without one configure stops with the cause and the cure.
AC_DEFUN([AM_PATH_SECMALLOC],
[AC_REQUIRE([PKG_PROG_PKG_CONFIG])dnl
PKG_CHECK_MODULES([SECMALLOC],m4_ifblank([$1],[[secmalloc]],[[secmalloc >= $1]]),
	[AC_DEFINE([HAVE_SECMALLOC],[1],[Define to 1 if you have secmalloc.])
	$2],
	[SECMALLOC_CFLAGS=
	SECMALLOC_LIBS=
	m4_ifblank([$3],
		[AC_MSG_ERROR([secmalloc]m4_ifnblank([$1],[[ $1 or later]])[ was not found: install it, or put the directory of its secmalloc.pc into PKG_CONFIG_PATH])],
		[$3])])
AC_SUBST([SECMALLOC_CFLAGS])
AC_SUBST([SECMALLOC_LIBS])
])
