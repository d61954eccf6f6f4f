"""Operations in the form that is fast on the platform a program is compiled for."""
